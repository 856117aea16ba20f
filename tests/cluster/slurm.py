"""A whole Slurm on this machine, for tests: its own configuration, key, ports and folders; nothing of the system is touched.

python tests/cluster/slurm.py FOLDER        starts it, prints the environment to use, and stops it at Ctrl-C
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=10
"""


def missing() -> list[str]:
    """The programs that are not installed; apt-get install slurm-wlm munge brings them."""
    return [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd; give the environment in which sbatch finds them; stop them."""
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    host = socket.gethostname().partition(".")[0]
    ctld_port, d_port = _free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ctld_port=ctld_port, d_port=d_port))
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    folder.chmod(0o755)
    env = os.environ | {"SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = [
        f"--{name}={folder}/munge.{name.removesuffix('-file')}"
        for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-f", str(config)],
            ["slurmd", "-D", "-f", str(config), "-N", host],
        ):
            with (folder / f"{command[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))
            if command[0] == "munged":
                _until(lambda: (folder / "munge.socket").exists(), folder, daemons)
        _until(lambda: "idle" in _output(["sinfo", "--noheader", "--format=%T"], env), folder, daemons)
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, check=False, capture_output=True, timeout=30)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _output(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def _until(ready, folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    for _ in range(300):
        if ready():
            return
        dead = [daemon for daemon in daemons if daemon.poll() is not None]
        if dead:
            break
        time.sleep(0.1)
    logs = "\n".join(
        f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.glob("*.[lo][ou][gt]"))
    )
    raise RuntimeError(f"Slurm does not start:\n{logs}")


if __name__ == "__main__":
    with cluster(Path(sys.argv[1]).resolve()) as found:
        print(f"export SLURM_CONF={found['SLURM_CONF']}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()

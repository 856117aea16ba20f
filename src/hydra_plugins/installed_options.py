"""Adds the options of installed plug-ins to the folders in which Hydra looks for config groups."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class InstalledOptions(SearchPathPlugin):
    """Makes `loss=theirs` work for a package that registers its options under the entry point group `segtune`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from segtune.config import plugins

        for name, package in plugins.packages().items():
            search_path.append(provider=name, path=f"pkg://{package}")

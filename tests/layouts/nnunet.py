"""Data sets of nnU-Net and of the Medical Segmentation Decathlon."""

import json

import volumes

V2 = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "RV": 1, "wall": 2, "both": [1, 2], "LV": 3}, "numTraining": 2}
MSD = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "RV", "2": "wall", "3": "LV"}, "numTraining": 2}
CASES = ("la_003", "la_010")


def write(root, cases=CASES, about=V2, *, channels=("_0000",), **keys):
    """A data set of nnU-Net; of the MSD with channels=("",)."""
    for number, case in enumerate(cases):
        for index, channel in enumerate(channels):
            volumes.write(root / "imagesTr" / f"{case}{channel}.nii.gz", volumes.pixels(10 * number + index))
        volumes.write(root / "labelsTr" / f"{case}.nii.gz", volumes.labels())
    content = {key: value for key, value in {**about, "numTraining": len(cases), **keys}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))
    return root

"""Errors of pydicom as errors of the input, without the values of a header, which may be a person's name."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom

from segtune.errors import InputError


@contextmanager
def explained(path: Path, missing: str = "") -> Iterator[None]:
    """Turn an error of pydicom into an InputError without values of the header, which may contain a name.

    Args: missing: the command that installs further decoders, see dicom_pixels.decoder_of.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of pydicom may quote a value, too
            yield
    except pydicom.errors.InvalidDicomError:
        raise InputError(f"{path}: this is not a DICOM file, whatever its name says. Replace it by the original.") from None
    except RecursionError:
        raise InputError(f"{path}: its header is nested too deeply. Replace it by the original.") from None
    except InputError:
        raise
    except RuntimeError as error:
        cure = f"If another program shows them, install a decoder ({missing}), else copy" if missing else "Copy"
        raise InputError(f"{path}: its pixels cannot be decoded. {cure} the file again.") from error
    except Exception as error:  # a damaged file makes pydicom fail in many ways, none of them a bug of ours
        raise InputError(f"{path}: damaged or incomplete DICOM file ({type(error).__name__}). Copy it again.") from None

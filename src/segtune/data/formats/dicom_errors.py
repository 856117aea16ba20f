"""Turn errors of pydicom into InputErrors that quote no header value, because headers may contain names of persons."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom

from segtune.errors import InputError


@contextmanager
def explained(path: Path, missing: str = "") -> Iterator[None]:
    """Turn any error of pydicom in the `with` block into an InputError that names the file but quotes no header value.

    Args: missing: the command that installs further decoders, from dicom_checks.decoder_of; empty if there is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of pydicom may quote a value, too
            yield
    except pydicom.errors.InvalidDicomError:
        raise InputError(f"{path}: this is not a DICOM file. Replace it with the original copy.") from None
    except RecursionError:
        raise InputError(f"{path}: its header is nested too deeply. Replace it with the original copy.") from None
    except InputError:
        raise
    except RuntimeError as error:
        cure = f"If another program can show them, install a decoder ({missing}); if not, copy" if missing else "Copy"
        raise InputError(f"{path}: its pixels cannot be decoded. {cure} the file again.") from error
    except Exception as error:  # pydicom raises many kinds of exceptions for damaged files
        raise InputError(f"{path}: damaged or incomplete DICOM file ({type(error).__name__}). Copy it again.") from None

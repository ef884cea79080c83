"""Detects the format of a file from its first bytes (magic numbers)."""

from typing import BinaryIO

from spheroseg.errors import BadImage, UnsupportedImage

TIFF = "TIFF"

SUPPORTED = [
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),  # BigTIFF
    (b"MM\0+", TIFF),
]

RECOGNISED = [  # offset, magic number, name
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\xda\xce\xbe\x0a", "Nikon ND2"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 (or an old Nikon ND2)"),
    (0, b"\x70\0\0\0", "Leica LIF"),
    (0, b"OLYMPUSRAWFORMAT", "Olympus OIR"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE container (Olympus OIB, Zeiss ZVI)"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 (for example Imaris IMS)"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyp", "HEIC, AVIF or video"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"NRRD", "NRRD"),
    (128, b"DICM", "DICOM"),
]


def detect_format(file: BinaryIO) -> str:
    """Return `PNG`, `JPEG`, `BMP` or `TIFF`, and leave the file at its start.

    Raise `UnsupportedImage` if the format is recognised but not supported, `BadImage` for anything else.
    """
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    if not head:
        raise BadImage("the file is empty (0 bytes)")
    for start, name in SUPPORTED:
        if head.startswith(start):
            return name
    for offset, magic, name in RECOGNISED:
        if head[offset:].startswith(magic):
            raise UnsupportedImage(f"{name} files are not read: export the image as TIFF")
    if _is_text(head):
        raise BadImage("this is a text file, not an image")
    raise BadImage("this is not an image of a known format: PNG, JPEG, BMP and TIFF are read")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character at the very end may be cut in half
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)

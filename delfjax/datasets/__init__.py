"""The host side of the data: folders of photographs, their ground truth, and the decoding of image
files."""

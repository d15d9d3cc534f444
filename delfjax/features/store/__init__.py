"""The feature store: a folder of Arrow files that holds the local features of any number of images.

::

    store.json                     format, version, extraction config and its hash; written once
    source.json                    the folder that the names of the images are relative to
    plan-000000.json               the images to extract and their division into groups; also the
                                   images that are gone, and those known by their content
    shard-000000-1b2c3d4e.arrow    group 0: one row per image, failures in the metadata; the digits
                                   are the file's CRC-32
    writer.lock                    empty, or the process that is writing

Each group of a plan becomes one shard in one commit: the file appears complete, by a rename, or not
at all, and is never rewritten. The content of a shard depends on its group alone, so a run that was
killed any number of times leaves the same bytes as an uninterrupted one. Images added later get a
new plan and new shards. An image that is extracted again (because its file changed, or a failure is
retried) is planned again as well, and its last record counts.

Plans apply in order. One may say that images are gone: they leave the store, though not its files.
One may say that an image is known, by the digest of its file: it has the features of an image with
the same content, which was renamed, copied, or had been gone.

The checksum in a shard's name is verified before its rows are first used, and the rows are compared
with the plan; the error for a damaged shard names its file.
"""

from delfjax.features.store.format import (
    FORMAT,
    FORMAT_VERSION,
    SHARD_SIZE,
    Group,
    Source,
    StoreError,
    is_store,
)
from delfjax.features.store.reader import FeatureStore, StoreArrays
from delfjax.features.store.writer import StoreWriter

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "SHARD_SIZE",
    "FeatureStore",
    "Group",
    "Source",
    "StoreArrays",
    "StoreError",
    "StoreWriter",
    "is_store",
]

"""The feature store: a folder of Arrow files that holds the local features of any number of images.

::

    store.json                     format, version, extraction config and its hash; written once
    plan-000000.json               the images to extract, and how they are cut into groups
    shard-000000-1b2c3d4e.arrow    group 0: a row per image, failures in the metadata; the digits
                                   are the file's CRC-32
    writer.lock                    empty, or who is writing

One group of the plan is one shard is one commit: the file appears complete, by a rename, or not at
all, and is never rewritten. What a shard holds depends on its group alone, so a run that was killed
any number of times leaves the same bytes as one that was not. Images that come later are planned in
another plan, into new shards; an image extracted again (its file changed, or a failure is retried)
is planned again too, and its last record counts.

The checksum in a shard's name is verified before its rows are first used, so that a damaged file is
refused by name.
"""

from delfjax.features.store.format import FORMAT, FORMAT_VERSION, SHARD_SIZE, Group, StoreError
from delfjax.features.store.reader import FeatureStore, StoreArrays
from delfjax.features.store.writer import StoreWriter

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "SHARD_SIZE",
    "FeatureStore",
    "Group",
    "StoreArrays",
    "StoreError",
    "StoreWriter",
]

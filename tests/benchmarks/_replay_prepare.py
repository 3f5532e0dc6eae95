"""RePlay's own preparation, on polars: python -m tests.benchmarks._replay_prepare SOURCE OUT CORE, in RePlay's environment.

SOURCE holds Parquet files. Repeats of a pair are dropped by polars, the first by time stays: RePlay's own filter of repeats
sees only those that follow each other. The k-core is InteractionEntriesFilter, which goes on until nothing goes; ids are
DatasetLabelEncoder's, leave-one-out is LastNSplitter, twice. Written: each split as Parquet, and the encoder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import _peers


def main() -> None:
    telling = _peers.Telling("replay-rec", "polars")
    import polars as pl
    from replay.data import (  # pyright: ignore[reportMissingImports]
        Dataset,
        FeatureHint,
        FeatureInfo,
        FeatureSchema,
        FeatureType,
    )
    from replay.data.dataset_utils import DatasetLabelEncoder  # pyright: ignore[reportMissingImports]
    from replay.preprocessing.filters import InteractionEntriesFilter  # pyright: ignore[reportMissingImports]
    from replay.splitters import LastNSplitter  # pyright: ignore[reportMissingImports]

    source, out, core = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    telling.done("import")
    frame: Any = pl.read_parquet(source / "*.parquet")
    telling.done("read")
    frame = frame.sort("t").unique(["user_id", "item_id"], keep="first", maintain_order=True)
    telling.done("collect")
    frame = InteractionEntriesFilter(min_inter_per_user=core, min_inter_per_item=core).transform(frame)
    telling.done("k-core")
    features = [
        FeatureInfo("user_id", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
        FeatureInfo("item_id", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
        FeatureInfo("t", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
    ]
    encoder = DatasetLabelEncoder()
    frame = encoder.fit_transform(Dataset(FeatureSchema(features), frame)).interactions
    telling.done("vocabulary")
    splitter = LastNSplitter(1, divide_column="user_id", query_column="user_id", timestamp_column="t")
    frame, test = splitter.split(frame)
    train, valid = splitter.split(frame)
    telling.done("split")
    out.mkdir()
    splits = {"train": train, "valid": valid, "test": test}
    for name, split in splits.items():
        split.write_parquet(out / f"{name}.parquet")
    encoder.query_and_item_id_encoder.save(str(out / "encoder"))
    telling.done("write")
    telling.end({name: len(split) for name, split in splits.items()})


if __name__ == "__main__":
    main()

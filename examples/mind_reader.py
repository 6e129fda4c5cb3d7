"""News impressions as MIND publishes them, written as tables for the pipeline.

A folder of MIND holds ``behaviors.tsv`` (impression, user, time, history,
impressions such as ``N1-0 N2-1``) and ``news.tsv`` (news, category,
subcategory, title, and columns that are not read). The history of a user is
the same in all rows of a folder, so the tables have ready-made histories.

    python examples/mind_reader.py MINDsmall_train MINDsmall_dev mind

writes the tables and their declaration into the folder ``mind``.
"""

import csv
import pathlib
import sys

import pandas as pd

SCHEMA = """
name: mind
user: {column: user, type: string}
item: {column: news, type: string}
labels: {click: clicked}
features:
  item: {category: {type: string}, subcategory: {type: string}}
  context: {hour: }
  behavior: {category: , subcategory: }
  matches: [category, subcategory]
history: history
text: title
"""
BEHAVIORS = ["impression", "user", "time", "history", "shown"]
NEWS = ["news", "category", "subcategory", "title"]


def read(file: pathlib.Path, names: list[str]) -> pd.DataFrame:
    """Reads the first columns of a file without a header."""
    return pd.read_csv(
        file,
        sep="\t",
        names=names,
        usecols=range(len(names)),
        dtype="string",
        quoting=csv.QUOTE_NONE,
    )


def convert(folder: pathlib.Path, split: str, out: pathlib.Path) -> None:
    """Writes the impressions and the histories of one split."""
    rows = read(folder / "behaviors.tsv", BEHAVIORS)
    time = pd.to_datetime(rows["time"], format="%m/%d/%Y %I:%M:%S %p")
    rows["hour"] = time.dt.hour + 1  # 0 would be missing.
    rows["history"] = rows["history"].fillna("").str.split()
    users = rows[["user", "history"]].drop_duplicates("user")
    users.to_parquet(out / f"{split}_user_features.parquet", index=False)
    shown = rows.assign(shown=rows["shown"].str.split()).explode("shown")
    pair = shown["shown"].str.rsplit("-", n=1, expand=True)
    shown["news"], shown["clicked"] = pair[0], pair[1].astype("int64")
    samples = shown[["user", "news", "clicked", "hour"]]
    samples.to_parquet(out / f"{split}_samples.parquet", index=False)


def main(train: str, dev: str, out: str) -> None:
    """Writes all tables of both splits."""
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    news = []
    for split, source in (("train", train), ("test", dev)):
        convert(pathlib.Path(source), split, folder)
        news.append(read(pathlib.Path(source) / "news.tsv", NEWS))
    items = pd.concat(news).drop_duplicates("news")
    items.to_parquet(folder / "item_features.parquet", index=False)
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

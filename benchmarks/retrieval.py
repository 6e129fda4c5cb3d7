"""Finding the 500 items nearest to a query, by the retrieval model's indexes.

Ours is the index of clusters of `tfx_pipeline.matching.index` in a TensorFlow
function, made as MatchingGen makes it. Peers are its exact index, `BruteForce`
of TensorFlow Recommenders, and FAISS's inverted file of 8-bit codes with as
many clusters. Clusters are added to a search, by powers of two, until it finds
95 % of the exact answers; the shares found are printed. Results agree if the
exact index and ours give the same score to the items that both find, and ours
finds 95 %.

Items are drawn around centers, as many as a quarter of the clusters, queries
near to items. One query at a time.

    python -m benchmarks.retrieval [--quick] [--sizes N …]
"""

from __future__ import annotations

import tempfile

from benchmarks import harness
from benchmarks.remote import Remote

SIZES, QUICK_SIZES = (100_000, 1_000_000), (20_000,)
EXACT_UP_TO = 2_000_000


def main() -> None:
    """Time each index at each size."""
    parser = harness.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="other sizes")
    arguments = parser.parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("retrieval", arguments)
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    for size in sizes:
        harness.say(f"retrieval: {size:,} items")
        _compare(report, size, arguments.threads)
    report.close()


def _compare(report: harness.Report, size: int, threads: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="retrieval-") as folder,
        Remote("benchmarks.retrieval_steps") as ours,
        Remote("benchmarks.peers.faiss_retrieval") as faiss,
    ):
        exact = size <= EXACT_UP_TO
        facts = ours.call("load", folder=folder, size=size, exact=exact)
        peer = faiss.call("load", folder=folder, threads=threads)
        case = f"{size:,} items"
        report.fact(case, ours=facts, faiss=peer)
        calls = {"FAISS IVF 8 bit": faiss.timed("search")}
        if exact:
            calls["BruteForce"] = ours.timed("search", name="exact")
        medians = harness.alternate(
            {"ours": ours.timed("search", name="clustered"), **calls},
            runs=5 * harness.RUNS,
        )
        right = facts["found"] >= 0.95 and facts["worst_difference"] < 1e-5
        mine = medians.pop("ours")
        report.add(
            case,
            mine,
            medians,
            agree={
                name: right and (name == "BruteForce" or peer["found"] >= 0.95)
                for name in medians
            },
            agree_by="95 % of the exact answers found, with exact scores",
            right=right,
            rss=facts["rss_mb"],
        )


if __name__ == "__main__":
    main()

"""Rankings against judgements: tiny cases by hand, and trec_eval's own code on random ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from qvec import InputError
from qvec.evaluation.dataset import read_qrels
from qvec.evaluation.metrics import judged_recall, ndcg, reciprocal_rank

GRADES = {"a": 3, "b": 2, "c": 0, "d": 1}


def test_ndcg_by_hand() -> None:
    # gains 2, 0, 3 at ranks 1, 2, 3, whose weights are 1, 1 / log2(3) and 1/2; ideal is 3, 2, 1
    found, ideal = 2 + 0 + 3 / 2, 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["b", "c", "a"], GRADES) == pytest.approx(found / ideal)
    assert ndcg(["b", "c", "a"], GRADES, 1) == pytest.approx(2 / 3)
    assert ndcg(["a", "b", "d", "c"], GRADES) == 1
    assert ndcg([], GRADES) == 0
    assert ndcg(["a"], {"a": 0}) == 0
    assert ndcg(["a", "b"], {"a": -1, "b": 1}) == pytest.approx(1 / math.log2(3))


def test_ndcg_takes_documents_as_they_were_found() -> None:
    assert ndcg(["z", "a"], {"a": 1}) == pytest.approx(1 / math.log2(3))
    assert ndcg(["a", "z"], {"a": 1}) == 1


def test_the_first_relevant_document_counts() -> None:
    assert reciprocal_rank(["c", "x", "d", "a"], GRADES) == pytest.approx(1 / 3)
    assert reciprocal_rank(["c", "x", "d"], GRADES, 2) == 0
    assert reciprocal_rank([], GRADES) == 0


def test_recall_of_the_relevant() -> None:
    assert judged_recall(["a", "x", "c"], GRADES) == pytest.approx(1 / 3)
    assert judged_recall(["a", "b", "d"], GRADES, 2) == pytest.approx(2 / 3)
    assert judged_recall(["a"], {"a": 0}) == 0


DOCUMENTS = [f"d{number:02}" for number in range(15)]


@given(
    st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1),
    st.sampled_from([1, 3, 5, 10]),
)
def test_trec_eval_says_the_same(ranking: list[str], grades: dict[str, int], k: int) -> None:
    """It orders by score, so scores are given that fall along the ranking."""
    run = {"q": {name: float(-rank) for rank, name in enumerate(ranking)}}
    first = {"q": {name: float(-rank) for rank, name in enumerate(ranking[:k])}}
    if not any(grade > 0 for grade in grades.values()):
        assert ndcg(ranking, grades, k) == judged_recall(ranking, grades, k) == 0
        return
    evaluator = pytrec_eval.RelevanceEvaluator({"q": grades}, {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"})
    theirs = evaluator.evaluate(run)["q"]
    assert ndcg(ranking, grades, k) == pytest.approx(theirs[f"ndcg_cut_{k}"])
    assert judged_recall(ranking, grades, k) == pytest.approx(theirs[f"recall_{k}"])
    assert reciprocal_rank(ranking, grades, k) == pytest.approx(evaluator.evaluate(first)["q"]["recip_rank"])


def written(folder: Path, content: str) -> Path:
    file = folder / "qrels"
    file.write_text(content, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td 1\t2\nq1\td2\t0\n\nq2\td2\t1\n",
        "q1\td 1\t2\nq1\td2\t0\nq2\td2\t1",
        "q1\t0\td 1\t2\nq1\t0\td2\t0\nq2\t0\td2\t1\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td 1\t2\r\nq1\td2\t0\r\nq2\td2\t1\r\nq2\td2\t1\r\n",
    ],
)
def test_judgements_in_beirs_form_and_trecs(tmp_path: Path, content: str) -> None:
    assert read_qrels(written(tmp_path, content)) == {"q1": {"d 1": 2, "d2": 0}, "q2": {"d2": 1}}


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_newline_alone(tmp_path: Path, mark: str) -> None:
    assert read_qrels(written(tmp_path, f"q1\ta{mark}b\t1\n")) == {"q1": {f"a{mark}b": 1}}


def test_trec_separates_by_blanks(tmp_path: Path) -> None:
    assert read_qrels(written(tmp_path, "7 0  12 1\n7 0 13 0\n")) == {"7": {"12": 1, "13": 0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td1\n", "qrels, line 2: 2 fields found, expected 3 (BEIR) or 4 (TREC)"),
        ("q1\td1\thigh\n", "qrels, line 1: the grade is 'high', expected a whole number"),
        ("q1\td1\t1\nq1\td1\t2\n", "qrels, line 2: q1 and d1 have grades 1 and 2"),
        ("query-id\tcorpus-id\tscore\n", "qrels has no judgements"),
    ],
)
def test_what_are_no_judgements_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_qrels(written(tmp_path, content))
    assert str(raised.value).removeprefix(f"{tmp_path}/") == message


def test_a_missing_file_of_judgements_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*/none: No such file or directory$"):
        read_qrels(tmp_path / "none")

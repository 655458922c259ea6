"""`multirate yardstick` from the command line to its files."""

import json

import pytest

from multirate.lab import experiment as experiment_module
from multirate.lab.yardstick import families as families_module

LOGISTIC = "yardstick/digits-logistic"
FAMILIES = ("--family", "schedule-free-tuned,prodigy", "--family", "multirate-sgd,levels")


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    out = tmp_path_factory.mktemp("yardstick") / "out"
    return ("yardstick", "--task", LOGISTIC, *FAMILIES, "--seeds", 2, "--epochs", 1, "--out", out)


@pytest.fixture
def done(words, invoke):
    """The folder of a small yardstick; made by whichever test comes first."""
    made = invoke(*words)
    assert made.exit_code == 0, made.output
    return words[-1], made


def test_the_search_is_run_then_the_best_and_all_others_with_every_seed(done):
    out, made = done
    searched = rows(out / "search")
    assert {(row["optimizer"], row["seed"]) for row in searched} == {
        (name, 900) for name in families_module.FAMILIES["schedule-free-tuned"].candidates
    }
    best = min(searched, key=lambda row: row["test_loss"])["optimizer"]
    final = {(row["optimizer"], row["seed"]) for row in rows(out)}
    names = [best, *(name for each in ("prodigy", "multirate-sgd", "levels")
                     for name in families_module.FAMILIES[each].candidates)]  # fmt: skip
    assert final == {(name, seed) for name in names for seed in (0, 1)}
    assert all(row["steps"] == 45 for row in rows(out))
    command = rows(out)[0]["command"]
    assert command.startswith(f"multirate yardstick --group development --task {LOGISTIC} --family schedule-free-tuned")
    assert "multirate-sgd+cosine" in made.output
    assert str(out / "yardstick.md") in made.output


def test_what_it_leaves(done):
    out, _ = done
    text = (out / "yardstick.md").read_text(encoding="utf-8")
    for part in (
        "| schedule-free-tuned | 1.000 | 1.000 |", "| levels: global + parameter |", "| task | 1e-07 | 1e-06 |",
        "has no run of adam-tuned, adamw-tuned, sgdn-tuned", "| levels: global | levels: global + layer |",
        "## multirate-sgd+cosine from every starting rate",
    ):  # fmt: skip
        assert part in text
    for name in ("yardstick-methods", "yardstick-starts", "yardstick-digits-logistic-starts-multirate-sgd"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    for title in ("Scores of all methods", "Scores from every starting rate", "Learned rates from every start"):
        assert title in page
    assert not (out / "search" / "report.html").exists()


def test_what_is_finished_is_not_run_again(words, done, invoke, monkeypatch):
    monkeypatch.setattr(experiment_module, "run_trials", lambda trials, *_: pytest.fail("ran again") if trials else [])
    again = invoke(*words)
    assert again.exit_code == 0, again.output
    assert "6 finished trials are kept" in again.output
    assert "42 finished trials are kept" in again.output
    assert invoke("report", words[-1]).exit_code == 0


def test_an_interrupted_search_goes_on_where_it_stopped(invoke, tmp_path, monkeypatch):
    words = ("yardstick", "--task", LOGISTIC, "--family", "schedule-free-tuned", "--seeds", 1, "--epochs", 1)
    sentence = experiment_module._sentence
    heard = []

    def interrupt(result):
        heard.append(result)
        if len(heard) == 2:
            raise KeyboardInterrupt
        return sentence(result)

    monkeypatch.setattr(experiment_module, "_sentence", interrupt)
    stopped = invoke(*words, "--out", tmp_path)
    assert stopped.exit_code == 1
    assert "same command goes on" in stopped.output
    assert len(rows(tmp_path / "search")) == 2
    assert not (tmp_path / "results.jsonl").exists()
    monkeypatch.setattr(experiment_module, "_sentence", sentence)
    assert invoke(*words, "--out", tmp_path).exit_code == 0
    assert len(rows(tmp_path / "search")) == 6
    assert len(rows(tmp_path)) == 1


def test_without_tuned_families_there_is_no_search_and_the_cure_is_told(invoke, tmp_path):
    done = invoke(
        "yardstick", "--task", LOGISTIC, "--family", "prodigy", "--seeds", 1, "--epochs", 1, "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "search").exists()
    assert "Run their tuned families into the same folder" in (tmp_path / "yardstick.md").read_text(encoding="utf-8")
    assert not (tmp_path / "yardstick-methods.png").exists()


def test_the_test_group_has_seeds_of_its_own(invoke, tmp_path):
    task = "yardstick-test/badly-scaled"
    words = ("yardstick", "--group", "test", "--task", task, "--family", "prodigy", "--seeds", 2, "--epochs", 1)
    assert invoke(*words, "--out", tmp_path).exit_code == 0
    assert {row["seed"] for row in rows(tmp_path)} == {1000, 1001}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--task", "yardstick/quadratics"], ["--task", "'yardstick/quadratics'", "mean 'yardstick/quadratic'?"]),
        (["--task", "digits/ffnn"], ["--task", "'digits/ffnn'", "yardstick/lstm"]),
        (["--task", "yardstick-test/rosenbrock"], ["is a test task", "--group test", "yardstick/digits-logistic"]),
        (["--family", "prodigi"], ["--family", "'prodigi'", "Did you mean 'prodigy'?", "levels"]),
        (["--group", "training"], ["--group", "'training'", "development"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--epochs", "0"], ["--epochs", "0"]),
    ],
)
def test_bad_input_names_the_option_and_the_cure(invoke, tmp_path, words, expected):
    done = invoke("yardstick", *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    output = " ".join(done.output.split())
    for part in expected:
        assert part in output
    assert not (tmp_path / "out").exists()


def test_a_family_of_a_package_that_is_missing_is_named_with_its_cure(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("multirate.lab.optimizers.entry.importlib.util.find_spec", lambda name: None)
    done = invoke("yardstick", "--family", "prodigy", "--out", tmp_path / "out")
    assert done.exit_code == 2
    for part in ("--family", "prodigyopt", "pip install 'multirate[bench]'"):
        assert part in done.output

"""Grades of the generated stories by another language model, the judge."""

from tinystories.evaluation import cells
from tinystories.evaluation.generation import read_generated, stories_key
from tinystories.evaluation.judge import AGE_GROUPS, check_url, grade
from tinystories.evaluation.subject import Subject
from tinystories.terminal import log_stderr


def key(subject: Subject) -> dict:
    """What the result depends on."""
    check_url(subject.settings.judge_url)
    return stories_key(subject) | {"model": subject.settings.judge_model}


def measure(subject: Subject) -> dict:
    """Have the stories graded; the answers are kept in the run folder."""
    s = subject.settings
    stories = [(story.prompt, story.continuation) for story in read_generated(subject.folder)]
    grades = grade(stories, s.judge_url, s.judge_model, subject.folder)
    if grades.failed:
        log_stderr(
            f"{grades.failed} stories were not judged ({grades.reason}); run the same command to "
            "retry"
        )
    return {
        "means": grades.means,
        "age_groups": dict(sorted(grades.age_groups.items())),
        "answered": grades.answered,
        "unparseable": grades.unparseable,
        "failed": grades.failed,
    }


def rows(result: dict) -> cells.Rows:
    """The result in the table."""
    ages = {f"judged age {AGE_GROUPS[a]}": cells.count(n) for a, n in result["age_groups"].items()}
    return {
        f"Judged by {result['key']['model']}, 1 to 10": {
            **{name: f"{mean:.2f}" for name, mean in result["means"].items()},
            **ages,
            "stories judged": cells.count(result["answered"]),
            "unparseable answers": cells.count(result["unparseable"]),
            "no answer": cells.count(result["failed"]),
        }
    }

"""Renders docs/states.md from the table of steps."""

from spheroseg.tasks import FINISHED, STEPS, TaskState

HEAD = """# The states of a task

`python -m tests.support.states_page > docs/states.md` writes this page from `STEPS` in `src/spheroseg/tasks.py`;
a test compares the two.

A task ends as exactly one of `completed`, `failed` (with a reason) or `cancelled`. Every step is one guarded
`UPDATE … WHERE id AND attempt AND state IN (…)`, whose row count says whether it was taken. The guards of `cancel`
and `retry` name no attempt, because a person means the task. What comes late finds another attempt or state and
changes no state: its result or failure is kept as superseded. What comes twice is dropped.

"""


def render() -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued"]
    for cause, step in STEPS.items():
        lines += [
            f"    {source} --> {target}: {cause}"
            for source in TaskState
            for target in TaskState
            if source in step.sources and target in step.targets
        ]
    lines += [f"    {state} --> [*]" for state in TaskState if state in FINISHED]
    lines += ["```", "", "| cause | finds | leaves | what happened |", "| --- | --- | --- | --- |"]
    for cause, step in STEPS.items():
        finds, leaves = (
            ", ".join(f"`{state}`" for state in TaskState if state in states)
            for states in (step.sources, step.targets)
        )
        lines.append(f"| `{cause}` | {finds} | {leaves} | {step.meaning} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")

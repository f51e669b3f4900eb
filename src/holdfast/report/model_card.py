"""A model card for each line-up of a study: what opened it, what it cost, in Markdown.

The head is the Hub's own metadata (`model-index`), so that the figures can be read by programs.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.report import counted, text
from holdfast.report.counted import Words
from holdfast.report.gaps import gaps
from holdfast.report.prices import claim
from holdfast.stats import free
from holdfast.stats.records import Findings, Threat


def model_card(found: Findings, lineup: str) -> str:
    """Give the whole card of one line-up, metadata first; raises KeyError for an unknown one."""
    return f"---\n{_metadata(found, lineup)}\n---\n\n{durability(found, lineup)}"


def _metadata(found: Findings, lineup: str) -> str:
    """Give the Hub's `model-index` as YAML: harm, utility, free attacks and the paid price."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="holdfast",
            dataset_name=f"Holdfast study {found.meta.name}",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for kind, name, value in _metrics(found, lineup)
    ]
    data = ModelCardData(model_name=lineup, eval_results=results, tags=["holdfast"])
    return data.to_yaml().strip()


def _metrics(found: Findings, lineup: str) -> Iterator[tuple[str, str, float]]:
    """Give (type, name, value) of every figure that has one; there is always the first."""
    line = found.lineups[lineup]
    yield "ranked", "may be ranked (1) or not (0)", float(not line.barred)
    for kind, rate in sorted(line.release.items()):
        if rate.value is not None:
            yield "rate", f"{kind} as released", rate.value
    if line.use.kept is not None and line.use.kept.value is not None:
        yield "ratio", "benign utility beside the undefended model", line.use.kept.value
    for threat in found.threats:
        for attack, one in threat.opened.get(lineup, {}).items():
            if one.harm.value is not None:
                yield (
                    "rate",
                    f"{counted.told(found).one} under the free attack {attack}",
                    one.harm.value,
                )
    threat = found.headline
    if threat is not None:
        costs = threat.costs[found.meta.thresholds[0]].get(lineup, {})
        if costs:
            least = min(c.low for c in costs.values())
            yield "count", "fine-tuning examples it held at the cheapest seed", least


def durability(found: Findings, lineup: str) -> str:
    """Give the Markdown section about one line-up of a study; raises KeyError for an unknown one.

    It says what opens the model for free, at which price fine-tuning broke it, what the defence
    cost in usefulness, and what was not tested. It holds no prompt and no answer.
    """
    line, threshold = found.lineups[lineup], found.meta.thresholds[0]
    words = counted.told(found)
    said = [f"## Durability of {plain(lineup)} (study: {plain(found.meta.name)})", ""]
    if found.meta.world:
        said += [
            "*Numbers of a small invented world; never claims about large language models.*",
            "",
        ]
    for sentence in gaps(found):
        said += [plain(sentence), ""]
    if line.barred:
        said += [f"**Not ranked**: {plain(line.barred)}.", ""]
    if line.one_checkpoint:
        said += ["One checkpoint: intervals are over seeds of the attacker, not trainings.", ""]
    said += [f"Usefulness as released: {plain(line.use.why)}.", ""]
    for threat in found.threats:
        said += _threat(found, threat, lineup)
    release = [
        f"{kind.replace('_', ' ')} {text.percent(rate.value)} [{text.interval(rate)}]"
        for kind, rate in sorted(line.release.items())
    ]
    said += [
        f"As released ({words.one}, correct or refused, by evaluation set): {'; '.join(release)}.",
        "",
    ]
    if found.headline is not None:
        said += [plain(claim(found, found.headline)), ""]
    past = f"{text.percent(threshold, 0)} {words.answers}{counted.limit(found)}"
    said += [f"Past {past} counts as broken.", ""]
    said += ["Not tested:", "", *(f"- {plain(item)}" for item in found.meta.not_tested)]
    return "\n".join(said).rstrip() + "\n"


def _threat(found: Findings, threat: Threat, lineup: str) -> list[str]:
    """Say what one kind of attacker got out of a line-up."""
    words, said = counted.told(found), list[str]()
    control = "the weights" if threat.access == "weights" else "the data only"
    said.append(f"Attacker who controls {control}:")
    said.append("")
    tried = threat.opened.get(lineup, {})
    said += [f"- free, {plain(name)}: {_opened(one, words)}" for name, one in tried.items()]
    if not tried:
        said.append("- free: no attack that trains nothing was run")
    for limit, costs in threat.costs.items():
        if lineup in costs:
            each = "; ".join(f"seed {seed}: {text.broke(c)}" for seed, c in costs[lineup].items())
            said.append(
                f"- paid, fine-tuning examples to pass {text.percent(limit, 0)} {words.one}: {each}"
            )
    for attack in threat.attacks:
        rates = [
            f"{text.number(p.budget)} {attack.unit}: {text.percent(p.harm.value)}"
            f" [{text.interval(p.harm)}]"
            for p in attack.points.get(lineup, ())
        ]
        if rates:
            said.append(f"- {words.rate} under {plain(attack.name)}: {'; '.join(rates)}")
    said.append("")
    return said


def _opened(one: free.Opened, words: Words) -> str:
    """Say what a free attack got."""
    seeds = f"{one.broken} of {text.plural(len(one.taken), 'seed')} past the threshold"
    said = f"{text.percent(one.harm.value)} {words.one} [{text.interval(one.harm)}], {seeds}"
    if one.original:
        said += "; it returns the public original"
    return said


def plain(words: str) -> str:
    """Give one line without what Markdown or HTML would act on."""
    words = " ".join(text.harmless(words, 1000).split())
    return "".join(f"\\{ch}" if ch in "\\`*[]<>|#!" else ch for ch in words)

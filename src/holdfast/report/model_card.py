"""A section for a model card: what one line-up withstood, in Markdown."""

from __future__ import annotations

from holdfast.report import answer, findings, text


def model_card(found: findings.Findings, lineup: str) -> str:
    """Give the Markdown section about one line-up of a study; raises KeyError for an unknown one.

    It says what was attacked, at which price the model broke, what the defence cost in usefulness,
    and what was not tested. It holds no prompt and no answer.
    """
    line, threshold = found.lineups[lineup], found.meta.thresholds[0]
    said = [f"## Durability of {plain(lineup)} (study: {plain(found.meta.name)})", ""]
    if found.meta.world:
        said += [
            "*Numbers of a small invented world; never claims about large language models.*",
            "",
        ]
    if line.barred:
        said += [f"**Not ranked**: {line.barred}.", ""]
    for threat in found.threats:
        control = "the weights" if threat.access == "weights" else "the data only"
        said.append(f"Attacker who controls {control}:")
        said.append("")
        for attack in (*threat.attacks, *threat.free_attacks):
            rates = [
                f"{text.number(p.budget)} {attack.unit}: {text.percent(p.harm.value)}"
                f" [{text.interval(p.harm)}]"
                for p in attack.points.get(lineup, ())
            ]
            if rates:
                said.append(f"- harmful rate under {plain(attack.name)}: {'; '.join(rates)}")
        for limit, costs in threat.costs.items():
            if lineup in costs:
                each = "; ".join(
                    f"seed {seed}: {text.broke(c)}" for seed, c in costs[lineup].items()
                )
                said.append(f"- examples to pass {text.percent(limit, 0)} harmful: {each}")
        if lineup in threat.free:
            broken = sum(not c.survived for c in threat.free[lineup].values())
            said.append(
                f"- moving the weights toward the public original, without training, passes"
                f" {text.percent(threshold, 0)} in {broken} of"
                f" {text.plural(len(threat.free[lineup]), 'seed')}"
            )
        said.append("")
    release = [
        f"{kind.replace('_', ' ')} {text.percent(rate.value)} [{text.interval(rate)}]"
        for kind, rate in sorted(line.release.items())
    ]
    said += [
        f"As released (harmful, correct or refused, by evaluation set): {'; '.join(release)}.",
        "",
    ]
    if found.headline is not None:
        said += [answer.claim(found, found.headline), ""]
    said += ["Not tested:", "", *(f"- {plain(item)}" for item in found.meta.not_tested)]
    return "\n".join(said).rstrip() + "\n"


def plain(words: str) -> str:
    """Give one line without what Markdown or HTML would act on."""
    words = " ".join(text.harmless(words, 200).split())
    return "".join(f"\\{ch}" if ch in "\\`*[]<>|#!" else ch for ch in words)

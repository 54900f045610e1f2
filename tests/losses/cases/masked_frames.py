"""masked_contrast, masked_prediction and code_diversity: what hidden frames are asked."""

import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import code_diversity, masked_contrast, masked_prediction

FRAMES = 5


def make_contrast(generator, rows, width):
    """Frames 0, 1, 3 are hidden; some of their distractors have their own code, and then their own target."""
    codes = torch.randint(0, 3, (rows, FRAMES, 1), generator=generator)
    codebook = unit_rows(generator, rows, 3, width)
    hidden = torch.tensor([0, 1, 3])
    return {
        "context": unit_rows(generator, rows, FRAMES, width),
        "targets": codebook.gather(1, codes.expand(-1, -1, width)),
        "codes": codes,
        "distractors": hidden[torch.randint(0, 3, (rows, FRAMES, 4), generator=generator)],
        "mask": torch.tensor([True, True, False, True, False]).expand(rows, -1).clone(),
        "temperature": temperature(generator),
    }


def contrast(context, targets, codes, distractors, mask, temperature):
    return masked_contrast(context, targets, codes, distractors, mask, temperature=temperature).sum()


def oracle_contrast(context, targets, codes, distractors, mask, temperature):
    total = 0.0
    rows = (tensor.tolist() for tensor in (context, targets, codes, distractors, mask))
    for c, q, code, others, hidden in zip(*rows, strict=True):
        for t in range(FRAMES):
            if not hidden[t]:
                continue
            logits = [sum(a * b for a, b in zip(c[t], q[t], strict=True)) / float(temperature)]
            for s in others[t]:
                if code[s] != code[t]:
                    logits.append(sum(a * b for a, b in zip(c[t], q[s], strict=True)) / float(temperature))
            top = max(logits)
            total += top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[0]
    return total


def make_prediction(generator, rows, width):
    mask = torch.rand(rows, 3, generator=generator) < 0.6
    mask[:, 0] = True
    return {
        "logits": 2 * torch.rand(rows, 3, 2, width + 1, generator=generator, dtype=torch.float64),
        "codes": torch.randint(0, width + 1, (rows, 3, 2), generator=generator),
        "mask": mask,
    }


def prediction(logits, codes, mask):
    return masked_prediction(logits, codes, mask).sum()


def oracle_prediction(logits, codes, mask):
    total = 0.0
    for row, chosen, hidden in zip(logits.tolist(), codes.tolist(), mask.tolist(), strict=True):
        for frame, picks, counted in zip(row, chosen, hidden, strict=True):
            for scores, pick in zip(frame, picks, strict=True):
                top = max(scores)
                level = top + math.log(sum(math.exp(score - top) for score in scores))
                total += counted * (level - scores[pick]) / len(picks)
    return total


def make_usage(generator, rows, width):
    counts = torch.randint(0, 4, (rows,), generator=generator)
    counts[0] = 2
    return {"usage": 2 * torch.rand(rows, 2, width + 1, generator=generator, dtype=torch.float64), "counts": counts}


def diversity(usage, counts):
    """Of scores: they become the probabilities of `counts` frames first."""
    if not (isinstance(usage, torch.Tensor) and usage.is_floating_point() and usage.dim() == 3):
        return code_diversity(usage, counts)
    dtype = torch.promote_types(usage.dtype, torch.float32)
    if len(usage) != len(counts):
        return code_diversity(usage, counts)
    return code_diversity(usage.to(dtype).softmax(dim=2) * counts[:, None, None], counts)


def oracle_diversity(usage, counts):
    groups, codes = usage.shape[1:]
    shares = [[0.0] * codes for _ in range(groups)]
    for row, count in zip(usage.tolist(), counts.tolist(), strict=True):
        for place, scores in enumerate(row):
            top = max(scores)
            total = sum(math.exp(score - top) for score in scores)
            for code, score in enumerate(scores):
                shares[place][code] += count * math.exp(score - top) / total / int(counts.sum())
    perplexity = sum(math.exp(-sum(p * math.log(p) for p in row if p > 0)) for row in shares)
    return (groups * codes - perplexity) / (groups * codes)


CASES = [
    Case(
        name="masked_contrast",
        function="masked_contrast",
        call=contrast,
        make=make_contrast,
        oracle=oracle_contrast,
        learnt=("context", "targets", "temperature"),
        rows=("context", "targets", "codes", "distractors", "mask"),
        sharpness=("temperature", 0.01),
        turned=("context", "targets"),
        tiled=False,
    ),
    Case(
        name="masked_prediction",
        function="masked_prediction",
        call=prediction,
        make=make_prediction,
        oracle=oracle_prediction,
        learnt=("logits",),
        rows=("logits", "codes", "mask"),
        tiled=False,
    ),
    Case(
        name="code_diversity",
        function="code_diversity",
        call=diversity,
        make=make_usage,
        oracle=oracle_diversity,
        learnt=("usage",),
        rows=("usage", "counts"),
        tiled=False,
    ),
]

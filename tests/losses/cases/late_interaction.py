"""late_interaction and its pieces: mean over tokens of the best match on the other side."""

import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import late_interaction, late_interaction_directions, late_interaction_similarity


def make_tokens(generator, rows, width):
    mask = torch.rand(rows, 4, generator=generator) < 0.6
    mask[torch.arange(rows), torch.randint(0, 4, (rows,), generator=generator)] = True
    return {
        "image": unit_rows(generator, rows, 3, width),
        "text": unit_rows(generator, rows, 4, width),
        "text_mask": mask,
    }


def make(generator, rows, width):
    return {**make_tokens(generator, rows, width), "temperature": temperature(generator)}


def matrices(image, text, text_mask):
    images, texts = image.tolist(), text.tolist()
    real = [[token for token, use in zip(t, m, strict=True) if use] for t, m in zip(texts, text_mask, strict=True)]

    def side(tokens, others):
        dots = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in others] for x in tokens]
        return sum(max(row) for row in dots) / len(dots)

    of_image = [[side(i, t) for t in real] for i in images]
    of_text = [[side(t, i) for t in real] for i in images]
    return of_image, of_text


def directions(image, text, text_mask, temperature):
    of_image, of_text = matrices(image, text, text_mask)
    count, values = len(of_image), []
    for score in (of_image, [list(column) for column in zip(*of_text, strict=True)]):
        total = 0.0
        for own, row in enumerate(score):
            logits = [value / float(temperature) for value in row]
            top = max(logits)
            total -= logits[own] - top - math.log(sum(math.exp(logit - top) for logit in logits))
        values.append(total / count)
    return values


def probe(rows, columns):
    """Fixed weights that tell every entry of a matrix apart."""
    return torch.arange(1, rows * columns + 1).view(rows, columns) / (rows * columns)


def similarity_sum(image, text, text_mask):
    of_image, of_text = late_interaction_similarity(image, text, text_mask=text_mask)
    weights = probe(*of_image.shape).to(of_image)
    return (of_image * weights).sum() + (of_text * weights.flip(0)).sum()


def oracle_similarity(**arguments):
    of_image, of_text = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices(**arguments))
    weights = probe(*of_image.shape).double()
    return float((of_image * weights).sum() + (of_text * weights.flip(0)).sum())


def directions_sum(image, text, text_mask, temperature):
    image_to_text, text_to_image = late_interaction_directions(
        image, text, text_mask=text_mask, temperature=temperature
    )
    return 2 * image_to_text + 3 * text_to_image


COMMON = {"rows": ("image", "text", "text_mask"), "turned": ("image", "text"), "linear": False}
SHARP = {"sharpness": ("temperature", 0.01), "guess": lambda arguments: math.log(len(arguments["image"]))}
CASES = [
    Case(
        name="late_interaction",
        function="late_interaction",
        call=late_interaction,
        make=make,
        oracle=lambda **arguments: sum(directions(**arguments)) / 2,
        learnt=("image", "text", "temperature"),
        **COMMON,
        **SHARP,
    ),
    Case(
        name="late_interaction_directions",
        function="late_interaction_directions",
        call=directions_sum,
        make=make,
        oracle=lambda **arguments: 2 * directions(**arguments)[0] + 3 * directions(**arguments)[1],
        learnt=("image", "text", "temperature"),
        **COMMON,
        sharpness=("temperature", 0.01),
    ),
    Case(
        name="late_interaction_similarity",
        function="late_interaction_similarity",
        call=similarity_sum,
        make=make_tokens,
        oracle=oracle_similarity,
        learnt=("image", "text"),
        turned=("image", "text"),
        linear=False,
    ),
]

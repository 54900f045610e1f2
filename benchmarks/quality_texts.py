"""The peers' published loops that read texts: sentence-transformers' SimCSE and open_clip's CLIP."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality_peers import Budget, Optimiser, Peer, Views, loop, set_seed
from counterpoint.data import Rows
from counterpoint.data.images import decode
from counterpoint.system import System


def simcse(max_length: int, temperature: float, optimiser: Optimiser, settings: str) -> Peer:
    """sentence-transformers' trainer on pairs of a sentence and itself, as its SimCSE example has it."""

    def run(system: System, rows: Rows, batch: int, budget: Budget, seed: int) -> int:
        from datasets import Dataset as Table
        from sentence_transformers import SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from transformers import PrinterCallback

        _hush()
        encoder: Any = system.encoder
        texts = [str(text) for text in rows.column("text")]
        trainer_class, ending = _on_a_budget(budget, optimiser)
        with tempfile.TemporaryDirectory() as folder:
            model = _sentence_transformer(encoder, folder, max_length)
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch,
                max_steps=1_000_000,  # more than the budget allows
                learning_rate=optimiser.learning_rate,
                weight_decay=optimiser.more.get("weight_decay", 0.0),
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                use_cpu=True,
                seed=seed,
            )
            trainer = trainer_class(
                model=model,
                args=arguments,
                train_dataset=Table.from_dict({"anchor": texts, "positive": texts}),
                loss=MultipleNegativesRankingLoss(model, scale=1 / temperature),
                callbacks=[ending],
            )
            trainer.remove_callback(PrinterCallback)
            budget.restart()  # models and tables are made: from here on both sides train
            trainer.train()
        weights = model[0].model.state_dict()
        encoder.model.load_state_dict({name: weights[name] for name in encoder.model.state_dict()})
        return int(trainer.state.global_step)

    return Peer(run, settings)


def _hush() -> None:
    """No bars and no advice between our own lines."""
    from datasets import disable_progress_bars
    from transformers import logging as chatter

    disable_progress_bars()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def _on_a_budget(budget: Budget, optimiser: Optimiser) -> tuple[Any, Any]:
    """sentence-transformers' trainer with its learning rate by the budget, and the callback that ends it."""
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import TrainerCallback

    class Timed(SentenceTransformerTrainer):  # type: ignore[misc, unused-ignore]
        """The learning rate follows the budget instead of a number of steps."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            chosen: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, lambda _: optimiser.factor(budget))
            return self.lr_scheduler

    class Ending(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Ends the training when the budget is spent."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = budget.over

    return Timed, Ending()


def _sentence_transformer(encoder: Any, folder: str, length: int) -> Any:
    """The same weights, tokenizer and mean of tokens in the peer's classes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    network = Transformer(folder, max_seq_length=length)
    return SentenceTransformer(modules=[network, Pooling(encoder.dim, "mean")], device="cpu")


def clip(
    transform: Callable[[int, Any, Any], Any],
    templates: Sequence[str],
    largest_scale: float,
    groups: Callable[[System], Iterable[dict[str, Any]]],
    optimiser: Optimiser,
    settings: str,
) -> Peer:
    """open_clip's training loop over towers of ours: `ClipLoss`, and the scale clamped after each step.

    Args:
        transform: (size, mean, std) -> the change of a picture.
        templates: sentences with `{}` for the caption.
        largest_scale: open_clip's is 100.
        groups: of parameters.
        optimiser, settings: see `Peer`.
    """

    def run(system: System, rows: Rows, batch: int, budget: Budget, seed: int) -> int:
        from open_clip.loss import ClipLoss

        set_seed(seed)
        encoder: Any = system.encoder
        change, criterion = transform(encoder.size, encoder.mean, encoder.std), ClipLoss()

        def sample(row: Mapping[str, Any]) -> tuple[Tensor, str]:
            template = templates[int(torch.randint(len(templates), ()))] if len(templates) > 1 else templates[0]
            return change(decode(row["image"])), template.replace("{}", row["text"])

        def together(samples: list[tuple[Tensor, str]]) -> tuple[Tensor, Any]:
            return torch.stack([image for image, _ in samples]), encoder.tokenize([text for _, text in samples])

        def loss(given: tuple[Tensor, Any]) -> Tensor:
            image, text = encoder.encode_image(given[0]), encoder.encode_text(given[1])
            unit = nn.functional.normalize
            return criterion(unit(image, dim=1), unit(text, dim=1), encoder.logit_scale.exp())

        def clamp() -> None:
            with torch.no_grad():
                encoder.logit_scale.clamp_(0, math.log(largest_scale))

        made = [dict(group) for group in groups(system)]
        return loop(Views(rows, sample), batch, loss, made, optimiser, budget, collate=together, after=clamp)

    return Peer(run, settings)

"""Before a run: are the models there and fit for what the recipe asks of them? Reads no weights."""

from __future__ import annotations

from unidetox.config.settings import Recipe
from unidetox.evaluation.prompt_encoding import check_room
from unidetox.evaluation.scorers import check_helpers
from unidetox.models import LoadOptions, check_lm, choose_device, choose_training_dtype
from unidetox.training.settings import check_optimizer


def check_recipe(recipe: Recipe) -> None:
    """See that device and models are there and can do what the recipe asks of them.

    Raises:
        MissingError: Something is not there.
        UsageError: Something cannot be used as the recipe asks.
    """
    from unidetox.decoding.sequences import max_positions

    choose_training_dtype(recipe.dtype, choose_device(recipe.device))
    options = LoadOptions.of(recipe)
    for section in (recipe.toxic, recipe.detoxify):
        check_optimizer(section.optim)
    for target in recipe.detoxify.targets:
        check_room(target, max_positions(check_lm(target, options).config), recipe.evaluate.max_new_tokens)
    check_helpers(recipe.evaluate, options)

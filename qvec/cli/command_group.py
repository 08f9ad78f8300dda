"""A group of commands that suggests the right name for a misspelt one."""

from __future__ import annotations

from difflib import get_close_matches

import click


class CommandGroup(click.Group):
    """Suggests commands itself, because click does so only from 8.4 on; every click suggests options."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = get_close_matches(args[0], self.list_commands(ctx))
        if self.get_command(ctx, args[0]) is None and close and not ctx.resilient_parsing:
            names = " or ".join(map(repr, close))
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {names}?", ctx)
        return super().resolve_command(ctx, args)

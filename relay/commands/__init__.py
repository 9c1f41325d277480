"""What the subcommands of `relay` do, one module each: `add(subcommands)` declares, `run` does."""

"""What a training will take and cost, from measured rates: ``stm plan``. docs/scaling.md has the equations."""

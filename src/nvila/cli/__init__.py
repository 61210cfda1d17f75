"""The command `nvila`: one file per verb, each cheap to import (heavy imports stand inside the functions)."""

"""What the words of tables mean: diagnoses, body sites, skin types, sexes. `docs/vocabulary.md` lists them all."""

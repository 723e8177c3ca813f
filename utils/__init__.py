"""Tools that know no model and no dataset."""

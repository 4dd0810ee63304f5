"""Updates: a bundle is fetched, proven in the inactive slot and swapped in; if that fails, the old one runs on."""

"""Methods, one file each; `unidetox.config.methods` says which there are, `interface` what a method is."""

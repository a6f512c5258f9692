"""Methods, one file each; `unidetox.registry` says which there are, `interface` what a method is."""

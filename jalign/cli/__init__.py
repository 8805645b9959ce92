"""The commands of `jalign`: one file each."""

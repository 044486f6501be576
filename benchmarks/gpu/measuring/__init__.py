"""What the commands in the folder above share: the clip, the models, graphs at work, processes, tables, results."""

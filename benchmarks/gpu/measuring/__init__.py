"""What the commands in the folder above share: clip, models, graphs at work, processes, tables, results."""

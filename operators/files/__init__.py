"""What the sinks that write files share: names of files, drawing, MP4. Imports no other room."""

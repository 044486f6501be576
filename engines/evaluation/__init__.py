"""The accuracy of poses, measured against annotations. Imports `contracts`."""

"""`posestream engine`: export, compile, quantise, verify and measure models, and manage what was made."""

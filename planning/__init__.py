"""What a step takes, known before it runs: from the compiler, for devices that need not be here.

plan         one row: a recipe on a target, compiled and read
table        rows as text and as JSON
targets      what a target is, and its devices as the compiler sees them
gpus         NVIDIA's GPUs as the compiler sees them
step_shapes  the arguments of a step as shapes, with stand-ins for data
compilation  the compiled program and its memory
hlo          the compiler's text, parsed
traffic      bytes moved in memory and between devices, out of that text
explain      bytes moved in memory by the part of the program
"""

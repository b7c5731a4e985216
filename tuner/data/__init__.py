"""From uploaded rows to a frozen dataset; what a row is, stands in `monitors.teaching`.

prepare         the way of the rows, step by step
reading         lines of a file as rows, or what is wrong with them
intake          rows taken in one by one: clean, measured, each once
finders         personal data, found by its form
personal        personal data, replaced
template        a conversation as the model reads it
tokens          its token ids, and which of them are learned
shelf           rows on disk, found again by their position
duplicates      rows that say nearly what an earlier one says
splits          what is trained on, what validates, what is held out
replay          the dataset of an earlier version
dataset         the frozen files
report          what became of the rows; bad_rows, all that cannot be used
telling         who hears of it
check           all of that without a job
labelling       prompts that a teacher answers
"""

"""What is learned from: what a row is, whether it makes sense, and a teacher that answers prompts.

rows            what a row of training data is
prompts         prompts without an answer, from a file or as they were captured
checking        whether a row makes sense
fingerprints    what makes two prompts or two rows the same
teacher         an endpoint whose answers are learned
allowance       what its requests may take: money, and how fast they may come
job             a teacher asked for an adapter that lost quality
"""

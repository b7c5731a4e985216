"""Webhooks: other systems are told what the loop did, signed, at least once.

events      which decisions are told, and in which words
queue       what is to be told, from the transaction of the decision on
holding     what is told only once the decision is carried out
hooks       where to tell, and what signs it

signing     signatures as the Standard Webhooks specification has them
sending     one attempt
addresses   where nothing is sent
retries     when the next one is
deliveries  what was told, what was not, and telling it again
job         the monitor's job that tells what is due
"""

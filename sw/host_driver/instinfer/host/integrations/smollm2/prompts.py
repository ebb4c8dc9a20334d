# SPDX-License-Identifier: Apache-2.0
"""Built-in prompts, our own text."""

_DEMO = """\
Where should attention be computed?

How does such a drive work? Inside it there are eight channels, and behind each channel there are four \
flash chips. A chip needs about forty microseconds to read a page, which is a long time for a circuit \
that runs at two hundred million steps per second. While one chip is busy reading, the channel moves the \
data of another. If the order is chosen well, the channels never have to wait. Every page carries a \
checksum and the name of its owner, so that a wrong page is noticed before it can spoil the result.

New words need some care. One word is far too small to fill a page of flash, so it waits in the memory \
of the drive until enough of its successors have arrived. Then all of them are written together, and the \
small memory is free again. Attention looks at both places and joins the two partial results into one, \
exactly as if all words had been in the same place.

When a large language model writes a text, it produces one word at a time. For each new word it looks \
back at everything that was said before. What it looks at are two lists of numbers, called keys and \
values, which the model computed once for every earlier word and then kept. The longer the conversation, \
the longer these lists become, and after a few thousand words they no longer fit into the memory of the \
graphics card.

The usual remedy is to move the lists to a slower and larger memory, such as a solid-state drive, and to \
read them back whenever a new word is needed. This works, but it is slow. The drive itself is not the \
problem, because inside it many flash chips work side by side, and together they can read very quickly. \
The problem is the narrow cable between the drive and the graphics card, through which everything has to \
pass, again and again, for every single word.

A different idea is to leave the lists where they are and to move the question instead. The graphics \
card sends a short query to the drive. A small circuit inside the drive compares the query with all the \
keys, weighs the values, and sends back only the result, which is as short as the query was. The long \
lists never leave the drive.

Not even all of the keys must be looked at closely. For each of them the drive can keep a small sketch, \
a few numbers that say roughly what it is about. The sketches are compared with the query first, which is \
quick because they are so small. Only the words that look promising, perhaps one in eight, are then read \
in full. Most of what was said long ago does not matter for the next word.

There is a price, of course. The drive needs a circuit that can multiply and add, and its flash wears \
out a little with every word that is written. Reading costs time as well, and a very long conversation \
has to be read again for each new word. But the cable is free, the graphics card is free, and many \
drives can work side by side, each of them with a part of the conversation. When a drive is added, the \
memory grows and the speed grows with it.

What are the benefits of computing attention in the drive instead of the graphics card?"""


def demo_prompt() -> str:
    """A passage and a question about it, to be asked with ``tokenizer.chat``.

    In the chat template, as the only message, it has 701 tokens: enough that the first stripe of int8 rows of
    `product` settles in flash. Each of the first 26 tokens of the greedy answer leads its runner-up by a
    logit difference above 0.25, so that fp16 rounding of an attention output does not change the text.
    """
    return _DEMO

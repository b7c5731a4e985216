"""The sentences that tickets are made of, as plain data.

`(a|b)` stands for one of the choices, and `{product}`, `{order}`, `{day}`, `{ago}`, `{amount}`, `{name}` and
`{city}` are filled in by `tickets.py`. A new kind of traffic is one more `Wording`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """What one kind of traffic talks about, and in which words."""

    products: dict[str, tuple[str, ...]]  # label -> how customers call it
    intents: dict[str, tuple[str, ...]]  # label -> sentences
    urgencies: dict[str, tuple[str, ...]]  # label -> sentences


SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "ago": (
        "yesterday",
        "last week",
        "last month",
        "two days ago",
        "three days ago",
        "a week ago",
        "two weeks ago",
        "last Monday",
    ),
    "name": ("Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lucy"),
    "city": ("Leeds", "Porto", "Bonn", "Lyon", "Turin", "Ghent", "Oslo", "Cork", "Graz", "Malmo"),
}

OPENINGS = ("Hello,", "Hi,", "Hi there,", "Good morning,", "Good afternoon,", "Dear team,", "Hello support,")

CONTEXTS = (
    "I am writing about order {order}.",
    "My order number is {order}.",
    "I have been a customer for (two|three|five) years.",
    "We are a small (bakery|school|office|clinic|hotel) in {city}.",
    "My name is {name} and I live in {city}.",
    "I bought it (online|in your shop) {ago}.",
    "I already (wrote|called) {ago}.",
)

CLOSINGS = (
    "Thanks.",
    "Thank you.",
    "Thanks in advance.",
    "Best, {name}",
    "Kind regards, {name}",
    "Many thanks, {name}",
    "Thank you for your help.",
)

PRODUCTS: dict[str, tuple[str, ...]] = {
    "router": ("router", "wifi router", "wireless router"),
    "camera": ("camera", "security camera", "outdoor camera"),
    "doorbell": ("doorbell", "video doorbell"),
    "thermostat": ("thermostat", "smart thermostat"),
    "speaker": ("speaker", "kitchen speaker"),
    "tablet": ("tablet", "small tablet"),
    "watch": ("watch", "smart watch"),
    "printer": ("printer", "laser printer"),
}

TRAINING = Wording(
    products=PRODUCTS,
    intents={
        "refund": (
            "(I would like|I want|I am asking for) (a refund|a full refund|my money back) for (the|my) {product}.",
            "(Can|Could) I (get|have) (a refund|my money back) (on|for) (the|this) {product}?",
            "Please refund (the|my) {product}, (I am not happy with it|it is not what I expected|it does not suit us).",
            "I sent (the|my) {product} back {ago} and (the refund|the money) has not (arrived|come) yet.",
            "(When|How soon) will I (get|see) (my money back|the refund) for (the|my) {product}?",
            "I returned (the|my) {product} and I am (still waiting|waiting) for (the|my) refund.",
            "(The|My) {product} is not (for me|as described), (please refund me|please pay my money back).",
            "How do I (ask for|claim|request) (a refund|the money back) for (the|my) {product}?",
            "(I do not like|We are not satisfied with) the {product} and (want|would like) (my|our) money back.",
            "You (promised|agreed) to (refund|pay back) the {product} {ago} and I still wait for the money.",
        ),
        "cancel": (
            "(Please cancel|I want to cancel|I would like to cancel) my order (for|of) (the|a) {product}.",
            "(Can|Could) you (cancel|stop|end) (my|the) {product} (order|subscription|plan)?",
            "I ordered (a|the) {product} (by mistake|by accident) and (want|need) to cancel it.",
            "I (do not need|no longer need) the {product} (service|plan|subscription), please (cancel|end|stop) it.",
            "How do I (cancel|end) the (plan|subscription|contract) for my {product}?",
            "Please do not send the {product} I ordered {ago}, I (changed my mind|found another one).",
            "I (changed my mind|have changed my mind) about the {product}, (please cancel the order|cancel it please).",
            "We are (moving|closing the office) and (must|have to) cancel the {product} (plan|contract).",
            "I want to (leave|end) the {product} (contract|plan|subscription) at the end of the month.",
            "My {product} (contract|subscription) (should|must) not renew, (please stop it|please cancel it).",
        ),
        "login": (
            "I cannot (log in to|sign in to|get into) (my|the) {product} (account|app).",
            "The {product} app (says my password is wrong|does not accept my password|asks for my password again).",
            "I (forgot|lost) (my|the) password (for|of) (the|my) {product} (account|app).",
            "(My|The) {product} account is locked (after three tries|and I cannot sign in|since {day}).",
            "The (login code|security code|code) for (the|my) {product} account (never arrives|does not work).",
            "(How do I|Can you help me to) reset the password (of|for) the {product} (app|account)?",
            "Since {day} the {product} app (does not let me in|refuses my login|logs me out).",
            "I am locked out of (my|the) {product} (account|app), please unlock it.",
            "Signing in to the {product} app (fails|gives an error) every time.",
            "The link to reset my {product} password (never came|does not work|has expired).",
        ),
        "delivery": (
            "(My|The) {product} (has not arrived|has not come|did not arrive) (yet|so far).",
            "Where is (my|the|the parcel with my) {product} that I ordered {ago}?",
            "The tracking (page|number) for (my|the) {product} (has not changed|shows nothing) since {day}.",
            "The (courier|driver) left (my|the) {product} (at the wrong house|at the wrong address|with a neighbour).",
            "(When will|On which day will) (my|the) {product} (arrive|be delivered|come)?",
            "The (parcel|box) with (my|the) {product} (is late|is lost|never came), says the courier.",
            "The {product} was (due|promised) (by|on|for) {day} and (nothing came|it is not here).",
            "The tracking page says the {product} was delivered, but (I have no parcel|there is no box here).",
            "Can you (change|correct) the delivery address for (my|the) {product}?",
            "(My|The) {product} parcel has been (at the depot|on the way|with the courier) since {day}.",
        ),
        "bug": (
            "(My|The) {product} (stopped working|does not turn on|switches off) (since the update|since {day}).",
            "(The|My) {product} (freezes|crashes|restarts) (every few minutes|all the time|every night).",
            "The screen of (my|the) {product} (is black|flickers|stays dark).",
            "(My|The) {product} (loses|drops) the connection (every hour|all the time|at night).",
            "After the (last|latest) update (my|the) {product} (is very slow|does not start|makes a loud noise).",
            "The {product} (shows|gives) error (7|12|31|40) and (does nothing|stops|switches off).",
            "(My|The) {product} is (broken|faulty), (it makes a strange noise|the light stays red|it gets very hot).",
            "The battery of (my|the) {product} (is empty after an hour|does not charge|gets hot).",
            "The button on (my|the) {product} (is stuck|does nothing) and the (light|screen) (flickers|stays black).",
            "(My|The) {product} (does not respond|hangs|crashes) when I (turn it on|start it|use it).",
            "When I (start|use) (my|the) {product} it (crashes|freezes|gets hot|is slow).",
            "(Every few minutes|At night) the {product} (crashes|freezes|switches off|makes a strange noise).",
            "There is (an error|a fault) in (my|the) {product}, it (stopped working|does not start).",
        ),
        "billing": (
            "I was charged (twice|two times) for (my|the|one) {product}.",
            "(The|My|Your) (bill|invoice) for (my|the) {product} (is wrong|is too high|shows the wrong amount).",
            "Why (did you charge me|was I charged|did you charge my card) {amount} for (my|the) {product}?",
            "There is a (charge|payment) of {amount} on my (card|bank account) for a {product} that I do not know.",
            "Please send me (the invoice|a copy of the invoice|a receipt) for (my|the) {product}.",
            "(The|My) {product} (invoice|bill|receipt) has (the wrong name|no tax number|the wrong address).",
            "The price of the {product} on the (bill|invoice) is {amount} more than (agreed|I agreed to).",
            "My card was (charged|billed) again for the {product} {ago}.",
            "The discount for (my|the) {product} (is missing on the bill|was not taken off the price).",
            "I need to (change|update) the (card|bank account) that pays for (my|the) {product}.",
        ),
        "exchange": (
            "I (would like|want) to (exchange|swap) (my|the) {product} for (a black one|a larger one|another model).",
            "(Can|Could) I (exchange|swap) (my|the) {product} for (a white one|a smaller one|the newer model)?",
            "I got the wrong (colour|size|model) of {product}, please (exchange|swap) it.",
            "You sent a (white|small|large) {product} instead of a black one, please (exchange|replace) it.",
            "Please replace (my|the) {product} with (a black one|a larger model|another one).",
            "(My|The) {product} (came|arrived) with a (scratch|crack|dent), please send a replacement.",
            "Is it possible to (swap|exchange) (my|the) {product} for (the newer model|a different colour)?",
            "I ordered the wrong (size|colour|model), how do I (exchange|swap) the {product}?",
            "We (need|want) a replacement for (our|the) {product}, (the colour is wrong|it has a scratch).",
            "The {product} is the wrong (size|model) and I would rather have (a larger one|the black one).",
        ),
        "how_to": (
            "How do I (connect|add) (my|the) {product} to (the wifi|my phone|a new network)?",
            "Where (can I find|do I find|is) the (manual|guide|serial number) (for|of) (my|the) {product}?",
            "(Can you|Please) (explain|tell me) how to (set up|install|use) (my|the) {product}.",
            "Does (my|the) {product} work with (an older phone|two phones|other brands)?",
            "(Which|What) (cable|battery|adapter) (fits|do I need for) (my|the) {product}?",
            "Is there a way to (mute|rename|share) (my|the) {product}?",
            "How (often|long) should I (clean|charge) (my|the) {product}?",
            "What does the (blue|green|small) light on (my|the) {product} mean?",
            "I would like to know how to (share|connect|clean) (my|the) {product}.",
            "Can I use (my|the) {product} (outside|in another country|without wifi|with two phones)?",
            "Please (explain|tell me) where I find the (guide|network|manual) (of|for) the {product}.",
            "(Does|Will) the {product} (work|run) (outside|in another country|on a new network)?",
        ),
    },
    urgencies={
        "high": (
            "This is urgent.",
            "It is (very urgent|urgent), please (help|hurry).",
            "(Please answer|I need an answer|I need help) today.",
            "(It|This) must be (solved|done) (right away|immediately|at once).",
            "(We|I) cannot wait any longer.",
            "This cannot wait, (we open tomorrow|guests arrive tonight|I leave tomorrow).",
            "Please hurry, our (shop|office) stands still.",
            "I need (help|this|an answer) (immediately|right away|within the hour|before tonight).",
            "As soon as possible, please.",
            "Please (answer|do it) (at once|immediately), I leave (tonight|tomorrow).",
            "It is urgent, (I need|we need) (an answer|help) (today|tonight).",
            "This is very urgent and must be (solved|done) (today|tonight).",
            "(It|This) is important and cannot wait (any longer|until tomorrow).",
            "(We|I) need (help|a reply) (within the hour|within two hours|tonight).",
            "Please (help|reply) (at once|today), our (office|hotel) stands still.",
        ),
        "medium": (
            "",
            "",
            "",
            "Please (answer|have a look) this week.",
            "(Some time this week|In the next few days) (is fine|would be good).",
            "I hope to hear from you (this week|in the coming days).",
            "It would be good to (solve|settle) this by (the weekend|{day}).",
            "Please look into it in the (next few|coming) days.",
            "(A reply|Some help) (this week|in the next few days|by {day}) would be (nice|good).",
            "An answer by {day} is (fine|early enough).",
            "I hope (it|this) is (solved|done) by (the weekend|{day}).",
        ),
        "low": (
            "There is no (rush|hurry).",
            "(Please answer|Answer) (whenever|when) you have (time|a moment).",
            "It is not urgent.",
            "(Please take|Take) your time.",
            "(It|This) can wait (until next month|a few weeks).",
            "It is (only|just) a (small|minor) thing, it is not urgent.",
            "Any time next month is fine.",
            "I am (in no|not in a) (hurry|rush).",
            "No (rush|hurry), I am just curious.",
            "An answer (next month|in a few weeks) is (fine|early enough).",
            "(Not|It is not) (urgent|important), it can wait.",
            "Whenever you have time, there is no (hurry|rush).",
            "This is not (urgent|important), (please take|you can take) your time.",
            "(Only|Just) a (small|minor) thing, any (day|time) will do.",
        ),
    },
)

# No sentence of these is a sentence of TRAINING: a model that only remembers sentences fails here.
HELD_OUT = Wording(
    products=PRODUCTS,
    intents={
        "refund": (
            "My {product} went back to you {ago}, so please pay the money back.",
            "I was told that the refund for my {product} takes (five|ten) days and I still wait.",
            "We are not happy with the {product}, please give us our money back.",
            "(Where is|What about) the refund for my {product}?",
            "The {product} is not what I expected and I want the full money back.",
        ),
        "cancel": (
            "Is it too late to cancel the {product} I ordered {ago}?",
            "Please end the {product} plan, we no longer need it.",
            "I would like to stop my {product} subscription from next month.",
            "Kindly cancel the {product}, I found another one.",
            "The order of the {product} was a mistake, can you cancel it?",
        ),
        "login": (
            "I have a new phone and cannot log in to the {product} app.",
            "Every time I sign in to the {product} account it says the code is wrong.",
            "Please unlock my {product} account, the app does not accept the password.",
            "My password for the {product} has expired and the app does not let me in.",
            "I cannot reset the {product} password, the link never arrives.",
        ),
        "delivery": (
            "I am still waiting for the parcel with the {product} I ordered {ago}.",
            "The courier says that my {product} is lost.",
            "My {product} was due on {day} and has not arrived.",
            "The driver did not come on {day}, so when will the {product} be delivered?",
            "The tracking page says that the {product} is at the depot since {day}.",
        ),
        "bug": (
            "Since the update the {product} crashes and restarts.",
            "When I turn on the {product} it switches off after a few minutes.",
            "There is a strange noise in my {product} and the light flickers.",
            "My {product} gets very hot and the screen stays black.",
            "The {product} is very slow and drops the connection when I use it.",
        ),
        "billing": (
            "My bank account shows two payments of {amount} for one {product}.",
            "Your invoice for the {product} says {amount} and I agreed to less.",
            "Can you send a receipt with our tax number for the {product}?",
            "You charged my card again for the {product}, the bill is wrong.",
            "The price on my {product} bill is too high, the discount is missing.",
        ),
        "exchange": (
            "I would rather have the {product} in black, can I swap it?",
            "The {product} has a dent and I want a replacement.",
            "Please exchange the {product}, it came in the wrong colour.",
            "How do I exchange the {product} for the right size?",
            "We got a small {product} and want to swap it for a larger one.",
        ),
        "how_to": (
            "Please explain where I find the serial number of the {product}.",
            "How do I set up the {product} on a new network?",
            "What cable do I need to connect the {product} to my phone?",
            "Does the {product} work without wifi?",
            "Is there a guide that explains how to clean the {product}?",
        ),
    },
    urgencies={
        "high": (
            "Please help right away, I leave tonight.",
            "It is urgent and cannot wait.",
            "We need an answer within the hour.",
            "Please do this immediately, our shop stands still.",
        ),
        "medium": (
            "",
            "I hope to settle this in the coming days.",
            "An answer this week would be good.",
            "Please have a look by {day}.",
        ),
        "low": (
            "This is not urgent, take your time.",
            "I am not in a rush, it can wait.",
            "Answer when you have a moment, there is no hurry.",
            "It is just a minor thing, any time is fine.",
        ),
    },
)

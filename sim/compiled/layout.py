"""Where everything lies: indices of fields within records of 64-bit words.

One array holds the header, the instances, GPUs and LLMs, and what an arena allocates behind them: runs, calls, KV blocks. A
record's address is its first index in that array; 0 means none. Templates, arrivals, users' plans, pairs of instances and the
rows that come out are arrays of their own, whose addresses stand in the header.

Times are femtoseconds since the current epoch began. An epoch lasts 2**61 of them (2,305 s), so that 64 bits suffice for
whatever is pending. What outlives an epoch carries its number.
"""

EPOCH_BITS = 61
EPOCH = 1 << EPOCH_BITS
LONGEST = 1 << 62
"""A span of iterations must be shorter: 4,611 s in which an instance has nothing to decide."""

# ---- header ----------------------------------------------------------------------------------------------------------

NOW = 1
EPOCH_NUMBER = 2
EVENT_NUMBER = 3
ADMITTED = 4
"""Calls admitted so far, by all instances: numbers in order of admission."""
SERIAL = 5
"""Calls issued so far."""
RUNS_ISSUED = 6
OPEN_FIRST = 7
OPEN_LAST = 8
OPEN_COUNT = 9
MORE = 10
"""Whether runs may still arrive."""
OPEN_LOOP = 11
"""Whether arrivals that wait for nobody may still come."""
DONE = 12
LIMIT = 13
"""Runs to issue; −1: no limit."""
HORIZON_EPOCH = 14
HORIZON = 15
"""−1: none."""
DRAIN_EPOCHS = 16
DRAIN = 17
"""−1: none."""
CALLS_LIVE = 18

HEAP = 20
"""Address of the pending events' array."""
HEAP_SIZE = 21
HEAP_ROOM = 22
FAR = 23
"""Address of the array of events of later epochs."""
FAR_SIZE = 24
FAR_ROOM = 25

TOP = 26
"""First free word of the arena."""
ROOM = 27
"""Its end."""
TABLE = 28
"""Address of the hash table of cached blocks."""
TABLE_MASK = 29
TABLE_COUNT = 30
OLD_TABLE = 31
"""Address of a smaller table to be moved into the one above; 0: none."""
OLD_MASK = 32

ARRIVALS = 34
ARRIVALS_AT = 35
ARRIVALS_SIZE = 36
ARRIVALS_END = 37
"""Whether no more follow after these."""
ARRIVAL_WORDS = 38
TEMPLATES = 39

USERS = 40
"""Address of the users' table."""
USERS_COUNT = 41
USERS_EMPTY = 42
"""Users whose plans are used up."""

OUT_CALLS = 44
OUT_CALLS_SIZE = 45
OUT_CALLS_ROOM = 46
OUT_RUNS = 47
OUT_RUNS_SIZE = 48
OUT_RUNS_ROOM = 49

INSTANCES = 50
"""Where the list of the instances' places begins."""
INSTANCES_COUNT = 51
LLMS = 52
LLMS_COUNT = 53
HOMES = 54
"""LLMs for which a run remembers an instance; 0 when no router does."""
SESSION_HOMES = 55
"""Address of the table of the sessions' instances, one row per session and one column per LLM; 0: none."""

ROUTER = 56
ORDER = 57
FIRST_LEVEL_TOKENS = 58
BETA = 59
"""A float."""
CAPACITY = 60
"""Whole-GPU seconds of prompt work that a GPU's instances do per second, a float; 0: no budget."""
WARMUP_RUN = 61
"""When this run has been issued, the meters are copied; −1: never."""
COMPENSATED = 62
"""Whether sums of floats are compensated, as Python's are from 3.12 on."""

GPUS = 70
"""Where the list of the GPUs' places begins."""
GPUS_COUNT = 71

ERROR_PLACE = 63
ERROR_CALL = 64

MOST_CHILDREN = 65
"""Most calls that the end of one call, or an arrival, can issue."""
MOST_RUNNING = 66
"""Most calls that one instance can run."""
MOST_RUN_WORDS = 67
MOST_LIST_WORDS = 68
"""Most words of a list of a call's cached blocks."""
MOST_NEW_BLOCKS = 69
"""Most blocks that one scheduling can enter into the table."""

FREE = 72
"""Heads of the lists of free records of 2**n words, n up to 40."""
FREE_RUNS = 128
"""The same for runs, and for calls below. Pending events tell by a run's or call's number whether it is still the one they
mean, so nothing else may lie where one has been."""
FREE_CALLS = 192
HEADER_WORDS = 256

# ---- events ----------------------------------------------------------------------------------------------------------

EVENT_WORDS = 4
E_TIME, E_KEY, E_WHAT, E_MORE = range(4)
"""Key: priority, then number. What: kind, and the record it is about. More: what tells that record from a later one there."""
FAR_WORDS = 5
KIND_BITS = 4
NUMBER_BITS = 42
PRIORITY_ARRIVAL = 0
PRIORITY_END = 1
PRIORITY_SCHEDULE = 1 << 20

ARRIVE, USER_ARRIVES, GAP_OVER, LEAVES, ENDS, WAKES, PROMOTES, STOPS, IS_DONE = range(9)

# ---- what ``advance`` returns ----------------------------------------------------------------------------------------

FINISHED, NEEDS_ARRIVALS, NEEDS_USERS, NEEDS_PAIRS, NEEDS_ROOM, NEEDS_TABLE, NEEDS_HEAP, ROWS_FULL = range(8)
STALLED, NEVER_FITS, CANNOT_ADMIT, BACKWARDS, TOO_LONG = range(10, 15)

# ---- templates: what all replays of a traced run have in common ------------------------------------------------------

(
    T_INDEX,
    T_CALLS,
    T_ROOTS,
    T_ROOTS_AT,
    T_TAIL_EPOCHS,
    T_TAIL,
    T_TOKENS,
    T_SESSION,
) = range(8)
T_WORDS = 8
"""Then the calls, the roots, the children, the keys."""
(
    S_INDEX,
    S_LLM,
    S_INPUT,
    S_OUTPUT,
    S_GAP_EPOCHS,
    S_GAP,
    S_PARENTS,
    S_CHILDREN,
    S_CHILDREN_AT,
    S_SHARED,
    S_KEYS,
    S_KEYS_AT,
) = range(12)
S_WORDS = 12

# ---- arrivals and users ----------------------------------------------------------------------------------------------

A_EPOCH, A_TIME, A_TEMPLATE, A_NAME, A_NUMBER = range(5)
A_WORDS = 5
"""Then, with a router that hashes, the instance for each LLM."""
U_PLANS, U_AT, U_SIZE = range(3)
"""Address of the plans, the next of them, how many."""
U_WORDS = 4

# ---- rows ------------------------------------------------------------------------------------------------------------

(
    OC_NAME,
    OC_NUMBER,
    OC_CALL,
    OC_INSTANCE,
    OC_ISSUED,
    OC_SCHEDULED,
    OC_FIRST,
    OC_END,
    OC_EPOCHS,
    OC_END_EPOCH,
    OC_CACHED,
    OC_PREEMPTIONS,
    OC_STATUS,
    OC_SALT,
) = range(14)
OC_WORDS = 14
OR_NAME, OR_NUMBER, OR_TEMPLATE, OR_ARRIVAL, OR_ARRIVAL_EPOCH, OR_END, OR_END_EPOCH, OR_STATUS = range(8)
OR_WORDS = 8
STATUS_COMPLETED, STATUS_REJECTED, STATUS_UNFINISHED = range(3)
TAG_BITS = 20
"""Epochs of issue, first scheduling and first token in one word."""

# ---- runs ------------------------------------------------------------------------------------------------------------

(
    R_TEMPLATE,
    R_SALT,
    R_NAME,
    R_NUMBER,
    R_ARRIVAL,
    R_ARRIVAL_EPOCH,
    R_CALLS_LEFT,
    R_IN_FLIGHT,
    R_FAILED,
    R_USER,
    R_SERVED_TOKENS,
    R_WAITED_HIGH,
    R_WAITED_LOW,
    R_SERVED_HIGH,
    R_SERVED_LOW,
    R_PREVIOUS,
    R_NEXT,
) = range(17)
R_WORDS = 17
"""Then the instance of each LLM (where a router remembers), then the parents that each call still misses."""
SUM_BITS = 60

# ---- calls -----------------------------------------------------------------------------------------------------------

(
    C_RUN,
    C_NODE,
    C_STEP,
    C_INPUT,
    C_OUTPUT,
    C_ISSUED,
    C_SCHEDULED,
    C_FIRST,
    C_EPOCHS,
    C_INSTANCE,
    C_NUMBER,
    C_EMITTED,
    C_COMPUTED,
    C_TARGET,
    C_JOINED,
    C_RESIDUE,
    C_HELD,
    C_BLOCKS,
    C_BLOCKS_COUNT,
    C_BLOCKS_CLASS,
    C_OWN,
    C_OWN_FULL,
    C_CACHED,
    C_PREEMPTIONS,
    C_NEXT,
    C_BEFORE,
    C_AFTER,
    C_ENTRY,
    C_SERIAL,
    C_KEYS,
    C_KEYS_AT,
    C_SHARED,
) = range(32)
C_CLASS = 5

# ---- KV blocks and segments of them ----------------------------------------------------------------------------------

Q_BEFORE, Q_AFTER, Q_KIND = range(3)
B_KEY, B_REFS, B_INSTANCE, B_DUPLICATE, B_LAST_DUPLICATE = range(3, 8)
SEG_COUNT, SEG_OWNED, SEG_QUEUED = range(3, 6)
IS_BLOCK, IS_SEGMENT = 0, 1
B_CLASS = 3
SALT_BITS = 32

# ---- entries of an ordered queue -------------------------------------------------------------------------------------

N_KEY, N_COUNT, N_CALL, N_LEFT, N_RIGHT = range(5)
N_CLASS = 3

# ---- instances -------------------------------------------------------------------------------------------------------

(
    I_NUMBER,
    I_LLM,
    I_OUTSTANDING_AT,
    I_BLOCKS,
    I_BLOCK_TOKENS,
    I_MAX_SEQS,
    I_MAX_TOKENS,
    I_MAX_QUEUED,
    I_CACHING,
    I_LONGEST,
    I_CONTEXT_LIMIT,
    I_WEIGHT,
    I_CREDIT,
    I_SHARED,
    I_PLACES,
    I_PLACES_AT,
    I_RESIDUES,
    I_ENDS,
    I_ENDS_SIZE,
    I_ENDS_ROOM,
    I_AHEAD,
    I_BEGINS,
    I_LEAVING,
    I_WEIGHTS,
    # what it costs (floats)
    I_BASE,
    I_PREFILL,
    I_DECODE,
    I_CONTEXT_COST,
    I_ATTENTION,
    I_DECODE_K,
    I_DECODE_LARGE_K,
    I_LOW_BATCH,
    I_BATCH_RANGE,
    I_EXTRA,
    I_PREFILL_FACTOR,
    I_PREFILL_SMALL_FACTOR,
    I_PREFILL_TOKENS,
    # meters
    I_BUSY,
    I_BUSY_HIGH,
    I_PROMPT,
    I_PROMPT_HIGH,
    I_KV_LOW,
    I_KV_HIGH,
    I_PREEMPTIONS,
    I_ITERATIONS,
    I_PREFILLED,
    I_PEAK,
    # state
    I_ALARM,
    I_WAKING,
    I_STARTED,
    I_SPAN,
    I_FIRST,
    I_GROWTH,
    I_SLOW,
    I_DRAWS,
    I_DECODING,
    I_CONTEXT,
    I_PARTIAL,
    I_FINISHING,
    I_FINISHING_LAST,
    I_FINISHING_COUNT,
    I_DECODERS,
    I_DECODERS_LAST,
    # what is scheduled ahead, and what the iteration under way brings
    I_NEXT,
    I_NEXT_DECODING,
    I_NEXT_CONTEXT,
    I_NEXT_TOKENS,
    I_NEXT_AREA,
    I_PREEMPTED,
    I_RAN_DECODING,
    I_BEGINS_SIZE,
    I_LEAVING_SIZE,
    # waiting calls
    I_WAITING,
    I_WAITING_TOKENS,
    I_FRONT,
    I_FRONT_LAST,
    I_ORDERED,
    I_PUSHED,
    # the block pool
    I_FREE,
    I_PLAIN,
    I_QUEUE,
    I_QUEUE_LAST,
    I_LAST_SEGMENT,
    # copies of meters: busy, prompt (two words each), prefilled; at the warm-up's end and at the last arrival
    I_BEGIN,
    I_BEGIN_1,
    I_BEGIN_2,
    I_BEGIN_3,
    I_BEGIN_4,
    I_END,
    I_END_1,
    I_END_2,
    I_END_3,
    I_END_4,
) = range(93)
I_WORDS = 96
LEAVING_WORDS = 2
"""A call that leaves, and the blocks that it holds."""
METER_BITS = 60
KV_BITS = 30

# ---- GPUs ------------------------------------------------------------------------------------------------------------

(
    G_TENANTS,
    G_MASK,
    G_BEFORE,
    G_CHANGED_AT,
    G_INTERFERENCE,
    G_TENANTS_AT,
    G_DEMANDS_AT,
    G_WORKED_UNTIL,
    G_PROMISES,
    G_PROMISES_AT,
) = range(10)
G_WORDS = 12
"""Then the tenants, their demands, and the promises as (end, tenant, work left)."""

# ---- LLMs ------------------------------------------------------------------------------------------------------------

L_COUNT, L_INSTANCES_AT, L_OUTSTANDING_AT, L_NEXT, L_PAIRS, L_PAIRS_AT, L_PAIRS_SIZE = range(7)
L_WORDS = 8

ROUND_ROBIN, LEAST_OUTSTANDING, LEAST_KV_LOAD, WEIGHTED, POWER_OF_TWO, AFFINITY, HASH_AFFINITY, PLAS_ROUTER = range(8)
FCFS, SHORTEST_REMAINING, PLAS = range(3)

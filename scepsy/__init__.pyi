from scepsy.api.inputs import generate_trace as generate_trace
from scepsy.api.inputs import import_trace as import_trace
from scepsy.api.inputs import load_cluster as load_cluster
from scepsy.api.inputs import profiles_of as profiles_of
from scepsy.api.program import compare as compare
from scepsy.api.program import plan as plan
from scepsy.api.program import predict as predict
from scepsy.api.program import simulate as simulate
from scepsy.api.program import validate as validate
from scepsy.cluster import Cluster as Cluster
from scepsy.errors import Infeasible as Infeasible
from scepsy.errors import InputError as InputError
from scepsy.errors import ScepsyError as ScepsyError
from scepsy.files.plan import load_plan as load_plan
from scepsy.files.plan import save_plan as save_plan
from scepsy.files.profiles import load_profiles as load_profiles
from scepsy.files.trace import load_trace as load_trace
from scepsy.files.trace import save_trace as save_trace
from scepsy.metrics import summarise as summarise
from scepsy.plans import Plan as Plan
from scepsy.profile.model import ProfileSet as ProfileSet
from scepsy.records import Records as Records
from scepsy.version import __version__ as __version__
from scepsy.workload import Arrivals as Arrivals
from scepsy.workload import Trace as Trace

__all__: list[str]

from . import tiny as tiny
from .contract import Check as Check
from .contract import check_attack as check_attack
from .contract import check_defence as check_defence
from .contract import check_judge as check_judge
from .contract import check_source as check_source
from .contract import checks_of as checks_of
from .hold import ContractError as ContractError

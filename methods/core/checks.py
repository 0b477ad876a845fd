"""What a user can get wrong in a method's fields, told before any work is done."""


def require(holds: bool, field: str, came: object, wanted: str) -> None:
    """ValueError that names the field, what came and what was wanted."""
    if not holds:
        raise ValueError(f"{field}: {came} came, {wanted} was wanted")

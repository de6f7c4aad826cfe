"""Why an environment cannot be rendered here, and what would help."""

import os
import traceback

import gymnasium as gym

_RENDERERS = {
    "egl": "on Debian or Ubuntu `apt install libegl1 libgl1` brings what MUJOCO_GL=egl needs",
    "osmesa": "on Debian or Ubuntu `apt install libosmesa6` brings what MUJOCO_GL=osmesa needs",
    "glfw": "MUJOCO_GL=glfw needs a display: where there is none, set it to egl",
}
_DISPLAY = ("display", "x11", "xlib", "wayland", "video device", "video driver")


def missing(error: BaseException, *, mujoco: bool = False) -> str:
    """What is missing, by what rendering raised: a package, an OpenGL library, a display, or nothing that we know.

    Args:
        mujoco: whether MuJoCo renders, whose OpenGL loaders raise errors of many kinds.
    """
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    if mujoco or of_opengl(error):
        renderer = os.environ.get("MUJOCO_GL", "glfw").lower()
        advice = _RENDERERS.get(renderer, f"MUJOCO_GL is {renderer!r}: known are {', '.join(_RENDERERS)}")
        return f"the off-screen renderer does not start ({reason}); {advice}"
    if isinstance(error, gym.error.DependencyNotInstalled | ImportError):
        name = getattr(error, "name", None)
        advice = f"; `pip install {name}` may bring it" if name else ""  # where Gymnasium knows, its message says so
        return f"a package that draws the environment is not installed ({reason}){advice}"
    if any(word in str(error).lower() for word in _DISPLAY):
        return f"the environment draws on a display, and there is none ({reason}); `xvfb-run` in front provides one"
    return f"the environment's own render() failed ({reason})"


def of_opengl(error: BaseException) -> bool:
    """Whether mujoco or OpenGL's loader raised it."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] in ("mujoco", "OpenGL", "glfw") for name in [*names, type(error).__module__])

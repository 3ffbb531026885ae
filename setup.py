"""Packaging. Every fact comes from settings.ini, the file that nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters="=", interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def requirements(key):
    "The requirements under `key` in settings.ini, one a line."
    return settings[key].strip().splitlines()


extras = {key.removesuffix("_requirements"): requirements(key) for key in settings if key.endswith("_requirements")}
extras["all"] = sorted({line for name in extras if name not in ("dev", "docs") for line in extras[name]})  # all a user can use
readme = here / "README.md"

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"], "Source": settings["git_url"]},
    license="Apache-2.0",
    keywords=settings["keywords"].split(),
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["torchdyn", "torchdyn.*"]),
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"nbdev": [f"{settings['lib_name']} = {settings['lib_path']}._modidx:d"]},  # lets nbdev link names to pages
)

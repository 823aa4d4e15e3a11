"Gives setuptools what changes from release to release; the static metadata is in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

settings = ConfigParser(delimiters=['='], interpolation=None)
settings.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
settings = settings['DEFAULT']

def lines(key): return settings[key].split('\n')[1:]

setup(version=settings['version'], install_requires=lines('requirements'),
      extras_require={'dev': lines('dev_requirements'), 'serving': lines('serving_requirements'), 'eda': lines('eda_requirements')})

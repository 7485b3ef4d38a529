"""A trained pool at work for one fresh client: ranked on its unlabelled images, fetched in part, asked, and shown."""

from fedmoe.personal.album import write_page
from fedmoe.personal.personalized import Personalized, Way
from fedmoe.personal.personalizer import Personalizer

__all__ = ["Personalized", "Personalizer", "Way", "write_page"]

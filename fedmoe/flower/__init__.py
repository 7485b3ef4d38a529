"""The only door to Flower: messages, the strategy's base class, the apps, the in-process grid."""

"""The command-line programs: thin, one ``main(argv)`` each."""

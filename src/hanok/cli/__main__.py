from hanok.cli import main

main()
